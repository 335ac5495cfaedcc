mod crash_corners;
mod crash_points;
mod restart;
mod several_urls;
mod stop;
