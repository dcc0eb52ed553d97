//! ptarmigan-rest
