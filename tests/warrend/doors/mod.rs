mod bench;
mod cli;
mod http;
mod schemathesis;
