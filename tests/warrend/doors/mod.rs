mod bench;
mod cli;
mod failures;
mod http;
mod mask;
mod robots;
mod why;
