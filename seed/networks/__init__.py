"""Networks: torsos by observation kind, the recurrent core, the body, and action policies."""
