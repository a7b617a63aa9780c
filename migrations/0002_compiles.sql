CREATE TABLE `compiles` (
	`tenant_id` text NOT NULL,
	`job` text NOT NULL,
	`name` text NOT NULL,
	`target` text NOT NULL,
	`base_digest` text NOT NULL,
	`parents` text NOT NULL,
	`status` text NOT NULL,
	`artifact` text,
	`created_at` integer NOT NULL,
	`settled_at` integer,
	PRIMARY KEY(`tenant_id`, `job`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`base_digest`) REFERENCES `bases`(`digest`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`artifact`) REFERENCES `bases`(`digest`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `compiles_base` ON `compiles` (`base_digest`);--> statement-breakpoint
CREATE INDEX `compiles_artifact` ON `compiles` (`artifact`);