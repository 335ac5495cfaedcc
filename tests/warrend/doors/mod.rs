mod bench;
mod cli;
mod http;
mod notify;
mod sse;
mod webhooks;
