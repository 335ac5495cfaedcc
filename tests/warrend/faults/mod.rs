mod restart;
mod several_urls;
mod stop;
