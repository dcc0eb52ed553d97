//! ptarmigan-config
