"""What people say to an assistant besides asking it something, with its replies."""

from __future__ import annotations

PAIRS: tuple[tuple[str, str], ...] = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi!", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Good morning!", "Good morning! How can I help you?"),
    ("Hey", "Hello! How can I help you?"),
    ("Thank you.", "You are welcome."),
    ("Thank you very much!", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("How are you?", "I am well, thank you."),
    ("How are you today?", "I am well, thank you."),
    ("Can you help me?", "Yes, I can. What do you want to know?"),
    ("I need help.", "I am here to help. What do you want to know?"),
    ("Goodbye.", "Goodbye! Come back soon."),
    ("Bye!", "Goodbye! Come back soon."),
    ("What can you do?", "I can answer questions and work out numbers."),
    ("That was good.", "Thank you!"),
    ("Good night.", "Good night! Sleep well."),
    ("I am sad.", "I am sorry to hear that."),
    ("I am happy.", "That is good to hear!"),
)
