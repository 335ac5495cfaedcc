mod actions;
mod bench;
mod cli;
mod export;
mod http;
mod many;
mod schemathesis;
