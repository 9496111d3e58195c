"""The page in a browser: ``pixelloom studio``. Only ``page``, ``tabs`` and ``server`` import gradio."""
