"""FlowServe over HTTP: the OpenAI API in front of one engine. The way in is `flowserve.server.app.build_app`."""
