//! Replication slots of the running server: the SQL, and the files of those that are copied. What is to be done is
//! decided in [`ptarmigan_ha::slots`].

pub mod copy;
pub mod sql;
