//! ptarmigan-testkit
