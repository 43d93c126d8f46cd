"""Chat exports: messages with author and time, and what one speaker answered.

export        what kind of export it is, and who speaks in it
telegram      Telegram's JSON
whatsapp      WhatsApp's text
placeholders  what stands in it for pictures, deleted messages and the like
tables        any file with a message a record
voice         from messages to prompts and replies in one speaker's voice
"""
