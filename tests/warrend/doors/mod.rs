mod bench;
mod claims;
mod claims_figures;
mod cli;
mod http;
