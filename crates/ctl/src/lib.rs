//! ptarmigan-ctl
