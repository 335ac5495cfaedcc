mod bench;
mod cli;
mod http;
