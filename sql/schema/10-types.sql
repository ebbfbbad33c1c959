CREATE TYPE serm.prediction AS (
	score real,
	grade text,
	probs real[],
	entropy real,
	disagreement real,
	version integer
);
COMMENT ON TYPE serm.prediction IS 'what a model says of a pair: expected grade, most fitting grade name, probabilities of the grades, entropy in nats, largest difference between heads, version';
