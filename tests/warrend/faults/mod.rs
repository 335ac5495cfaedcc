mod restart;
mod stop;
