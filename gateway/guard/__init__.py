"""`understudy guard`: Llama Guard behind one HTTP endpoint. Start with service.py; policy is the gateway's."""
