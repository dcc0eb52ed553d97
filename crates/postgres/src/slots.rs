//! Replication slots of the running server: the SQL. What is to be done is decided in [`ptarmigan_ha::slots`].

pub mod sql;
