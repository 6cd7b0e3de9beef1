"""Statistics of agreement studies on arrays: no tables of foodray, no figures. Each function names its source; the tests check it against another program."""
