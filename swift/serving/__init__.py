"""A model behind the OpenAI API: `app` has the routes, `guard` who may come in, `asking` what a request means."""
