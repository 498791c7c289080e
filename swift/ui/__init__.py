"""The chat page. Read `answers` for what it does, `chat_page` for how it looks, `serving` for who may see it."""
