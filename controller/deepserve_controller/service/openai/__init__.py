"""The OpenAI API over hosted models: keys, limits, fair queues, and answers passed on as they come."""
