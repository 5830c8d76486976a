"""Opinion SAE: steer a language model's survey answers with offsets to SAE latents."""
