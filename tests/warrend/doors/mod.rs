mod bench;
mod claims;
mod claims_figures;
mod cli;
mod export;
mod http;
mod many;
mod schemathesis;
