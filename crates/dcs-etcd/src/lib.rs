//! ptarmigan-dcs-etcd
