mod cli;
mod http;
