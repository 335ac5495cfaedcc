mod actions;
mod bench;
mod cli;
mod http;
