"""What operators and load balancers ask: is it alive, is it ready, what is it, what can it do. Open to everybody."""
