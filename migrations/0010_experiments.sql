CREATE TABLE `metrics` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`better` text NOT NULL,
	`min` real NOT NULL,
	`max` real NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action,
	CONSTRAINT "metrics_bounds" CHECK("metrics"."min" < "metrics"."max")
);
--> statement-breakpoint
CREATE TABLE `outcomes` (
	`tenant_id` text NOT NULL,
	`request_id` text NOT NULL,
	`metric` text NOT NULL,
	`value` real NOT NULL,
	`source` text NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`request_id`, `source`, `metric`),
	FOREIGN KEY (`request_id`) REFERENCES `usage`(`request_id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE TABLE `shadows` (
	`request_id` text NOT NULL,
	`tenant_id` text NOT NULL,
	`experiment_id` text NOT NULL,
	`bucket_version` integer NOT NULL,
	`arm_id` text NOT NULL,
	`subject` text NOT NULL,
	`grant_id` text NOT NULL,
	`status` text NOT NULL,
	`prompt_tokens` integer,
	`completion_tokens` integer,
	`ttft_ms` integer,
	`refused` integer,
	`created_at` integer NOT NULL,
	`settled_at` integer,
	PRIMARY KEY(`request_id`, `arm_id`),
	FOREIGN KEY (`request_id`) REFERENCES `usage`(`request_id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`experiment_id`,`arm_id`) REFERENCES `arms`(`tenant_id`,`experiment_id`,`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `shadows_arm` ON `shadows` (`tenant_id`,`experiment_id`,`arm_id`);--> statement-breakpoint
ALTER TABLE `arms` ADD `shadow` integer DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE `arms` ADD `stopped_at` integer;--> statement-breakpoint
ALTER TABLE `arms` ADD `stopped_by` text;--> statement-breakpoint
ALTER TABLE `experiments` ADD `coverage` integer DEFAULT 10000 NOT NULL;--> statement-breakpoint
ALTER TABLE `experiments` ADD `namespace` text;--> statement-breakpoint
ALTER TABLE `experiments` ADD `guardrails` text DEFAULT '[]' NOT NULL;--> statement-breakpoint
ALTER TABLE `experiments` ADD `verdict` text;--> statement-breakpoint
ALTER TABLE `experiments` ADD `verdicts` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
CREATE INDEX `usage_experiment` ON `usage` (`tenant_id`,`experiment_id`,`bucket_version`);