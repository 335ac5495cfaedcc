mod mirror;
mod restart;
mod stop;
