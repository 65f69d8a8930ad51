"""QuestDB: the tables, what fills them from the streams, and the questions asked of them."""
