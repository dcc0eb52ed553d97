//! ptarmigan-guardian
