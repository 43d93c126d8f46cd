"""Chat exports: messages with author and time, and what one speaker answered.

export     what kind of export it is, and who speaks in it
telegram   Telegram's JSON
whatsapp   WhatsApp's text
tables     any file with a message a record
voice      from messages to prompts and replies in one speaker's voice
"""
