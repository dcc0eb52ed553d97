//! ptarmigan-agent
