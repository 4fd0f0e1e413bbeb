"""Events, transport, joins and the error memory. Filled by the online half."""
