//! ptarmigan-postgres
