//! A queue changes its lane, or its dispatch is paused, under work: nothing is lost, doubled or overtaken.
