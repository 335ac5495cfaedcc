mod acks;
mod managed;
mod reports;
