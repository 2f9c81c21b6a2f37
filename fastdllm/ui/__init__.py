"""Debugger and chat: recording, player, strip, comparison, panel, controls, conversation, the chat page."""
