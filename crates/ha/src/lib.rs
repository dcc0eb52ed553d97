//! ptarmigan-ha
