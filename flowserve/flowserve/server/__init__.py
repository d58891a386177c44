"""FlowServe over HTTP: the OpenAI API in front of one engine or encoder. The way in is `process.serve`."""
