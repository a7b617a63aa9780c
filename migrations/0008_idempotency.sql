CREATE TABLE `idempotency` (
	`tenant_id` text NOT NULL,
	`principal` text NOT NULL,
	`key_digest` text NOT NULL,
	`fingerprint` text NOT NULL,
	`runs` text NOT NULL,
	`request_id` text NOT NULL,
	`receipt` text NOT NULL,
	`status` text NOT NULL,
	`answer` text,
	`created_at` integer NOT NULL,
	`expires_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `principal`, `key_digest`)
);
--> statement-breakpoint
CREATE INDEX `idempotency_expires` ON `idempotency` (`expires_at`);--> statement-breakpoint
CREATE INDEX `idempotency_request` ON `idempotency` (`request_id`);