"""OpenAI's dialect: chat completions, responses, models and files."""
