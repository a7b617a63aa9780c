CREATE TABLE `adapters` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`name` text NOT NULL,
	`version` integer NOT NULL,
	`digest` text NOT NULL,
	`base_digest` text NOT NULL,
	`disabled` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`base_digest`) REFERENCES `bases`(`digest`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `adapters_base` ON `adapters` (`base_digest`);--> statement-breakpoint
CREATE UNIQUE INDEX `adapters_name_version` ON `adapters` (`tenant_id`,`name`,`version`);--> statement-breakpoint
CREATE TABLE `arms` (
	`tenant_id` text NOT NULL,
	`experiment_id` text NOT NULL,
	`id` text NOT NULL,
	`position` integer NOT NULL,
	`weight` integer NOT NULL,
	`adapter_id` text,
	`base_digest` text,
	PRIMARY KEY(`tenant_id`, `experiment_id`, `id`),
	FOREIGN KEY (`base_digest`) REFERENCES `bases`(`digest`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`experiment_id`) REFERENCES `experiments`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`adapter_id`) REFERENCES `adapters`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	CONSTRAINT "arms_target" CHECK(("arms"."adapter_id" IS NULL) <> ("arms"."base_digest" IS NULL)),
	CONSTRAINT "arms_weight" CHECK("arms"."weight" BETWEEN 0 AND 10000)
);
--> statement-breakpoint
CREATE INDEX `arms_adapter` ON `arms` (`tenant_id`,`adapter_id`);--> statement-breakpoint
CREATE INDEX `arms_base` ON `arms` (`base_digest`);--> statement-breakpoint
CREATE UNIQUE INDEX `arms_position` ON `arms` (`tenant_id`,`experiment_id`,`position`);--> statement-breakpoint
CREATE TABLE `assignments` (
	`tenant_id` text NOT NULL,
	`experiment_id` text NOT NULL,
	`bucket_version` integer NOT NULL,
	`subject` text NOT NULL,
	`arm_id` text NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `experiment_id`, `bucket_version`, `subject`),
	FOREIGN KEY (`tenant_id`,`experiment_id`,`arm_id`) REFERENCES `arms`(`tenant_id`,`experiment_id`,`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `assignments_arm` ON `assignments` (`tenant_id`,`experiment_id`,`arm_id`);--> statement-breakpoint
CREATE TABLE `audit` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`at` integer NOT NULL,
	`actor` text NOT NULL,
	`action` text NOT NULL,
	`resource` text NOT NULL,
	`before_digest` text,
	`after_digest` text
);
--> statement-breakpoint
CREATE TABLE `backends` (
	`id` text PRIMARY KEY NOT NULL,
	`url` text NOT NULL,
	`base_digest` text NOT NULL,
	`enabled` integer NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`base_digest`) REFERENCES `bases`(`digest`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `backends_url_unique` ON `backends` (`url`);--> statement-breakpoint
CREATE INDEX `backends_base` ON `backends` (`base_digest`);--> statement-breakpoint
CREATE TABLE `bases` (
	`digest` text PRIMARY KEY NOT NULL,
	`disabled` integer NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `experiments` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`seed` text NOT NULL,
	`bucket_version` integer NOT NULL,
	`status` text NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE TABLE `exposures` (
	`tenant_id` text NOT NULL,
	`experiment_id` text NOT NULL,
	`bucket_version` integer NOT NULL,
	`subject` text NOT NULL,
	`assigned_arm_id` text NOT NULL,
	`served_arm_id` text NOT NULL,
	`analysed` integer NOT NULL,
	`request_id` text NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `experiment_id`, `bucket_version`, `subject`),
	FOREIGN KEY (`tenant_id`,`experiment_id`,`assigned_arm_id`) REFERENCES `arms`(`tenant_id`,`experiment_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`experiment_id`,`served_arm_id`) REFERENCES `arms`(`tenant_id`,`experiment_id`,`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `exposures_assigned` ON `exposures` (`tenant_id`,`experiment_id`,`assigned_arm_id`);--> statement-breakpoint
CREATE INDEX `exposures_served` ON `exposures` (`tenant_id`,`experiment_id`,`served_arm_id`);--> statement-breakpoint
CREATE TABLE `grants` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`effect` text NOT NULL,
	`principal_kind` text NOT NULL,
	`key_id` text,
	`user_id` text,
	`role_id` text,
	`adapter_id` text,
	`base_digest` text,
	`starts_at` integer,
	`ends_at` integer,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`base_digest`) REFERENCES `bases`(`digest`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`key_id`) REFERENCES `keys`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`user_id`) REFERENCES `users`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`role_id`) REFERENCES `roles`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`adapter_id`) REFERENCES `adapters`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	CONSTRAINT "grants_principal" CHECK(("grants"."key_id" IS NOT NULL) = ("grants"."principal_kind" = 'key') AND ("grants"."user_id" IS NOT NULL) = ("grants"."principal_kind" = 'user') AND ("grants"."role_id" IS NOT NULL) = ("grants"."principal_kind" = 'role')),
	CONSTRAINT "grants_resource" CHECK(("grants"."adapter_id" IS NULL) <> ("grants"."base_digest" IS NULL))
);
--> statement-breakpoint
CREATE INDEX `grants_key` ON `grants` (`tenant_id`,`key_id`);--> statement-breakpoint
CREATE INDEX `grants_user` ON `grants` (`tenant_id`,`user_id`);--> statement-breakpoint
CREATE INDEX `grants_role` ON `grants` (`tenant_id`,`role_id`);--> statement-breakpoint
CREATE INDEX `grants_adapter` ON `grants` (`tenant_id`,`adapter_id`);--> statement-breakpoint
CREATE INDEX `grants_base` ON `grants` (`base_digest`);--> statement-breakpoint
CREATE TABLE `keys` (
	`id` text PRIMARY KEY NOT NULL,
	`class` text NOT NULL,
	`tenant_id` text,
	`user_id` text,
	`mac` text NOT NULL,
	`pepper_version` text NOT NULL,
	`last4` text NOT NULL,
	`expires_at` integer,
	`disabled` integer NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`user_id`) REFERENCES `users`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	CONSTRAINT "keys_class" CHECK(("keys"."class" = 'user' AND "keys"."tenant_id" IS NOT NULL) OR ("keys"."class" = 'admin' AND "keys"."tenant_id" IS NULL AND "keys"."user_id" IS NULL))
);
--> statement-breakpoint
CREATE INDEX `keys_user` ON `keys` (`tenant_id`,`user_id`);--> statement-breakpoint
CREATE UNIQUE INDEX `keys_tenant_id` ON `keys` (`tenant_id`,`id`);--> statement-breakpoint
CREATE TABLE `models` (
	`tenant_id` text NOT NULL,
	`name` text NOT NULL,
	`adapter_id` text,
	`base_digest` text,
	`experiment_id` text,
	`disabled` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `name`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`base_digest`) REFERENCES `bases`(`digest`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`adapter_id`) REFERENCES `adapters`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`experiment_id`) REFERENCES `experiments`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	CONSTRAINT "models_target" CHECK(("models"."adapter_id" IS NOT NULL) + ("models"."base_digest" IS NOT NULL) + ("models"."experiment_id" IS NOT NULL) = 1)
);
--> statement-breakpoint
CREATE INDEX `models_adapter` ON `models` (`tenant_id`,`adapter_id`);--> statement-breakpoint
CREATE INDEX `models_base` ON `models` (`base_digest`);--> statement-breakpoint
CREATE INDEX `models_experiment` ON `models` (`tenant_id`,`experiment_id`);--> statement-breakpoint
CREATE TABLE `roles` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`disabled` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE TABLE `tenants` (
	`id` text PRIMARY KEY NOT NULL,
	`max_tokens` integer NOT NULL,
	`disabled` integer NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `usage` (
	`request_id` text PRIMARY KEY NOT NULL,
	`tenant_id` text NOT NULL,
	`key_id` text NOT NULL,
	`model` text NOT NULL,
	`base_digest` text NOT NULL,
	`adapter_id` text,
	`adapter_digest` text,
	`grant_id` text NOT NULL,
	`experiment_id` text,
	`bucket_version` integer,
	`arm_id` text,
	`receipt` text NOT NULL,
	`status` text NOT NULL,
	`prompt_tokens` integer,
	`completion_tokens` integer,
	`ttft_ms` integer,
	`created_at` integer NOT NULL,
	`settled_at` integer,
	FOREIGN KEY (`base_digest`) REFERENCES `bases`(`digest`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`key_id`) REFERENCES `keys`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`adapter_id`) REFERENCES `adapters`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `usage_key` ON `usage` (`tenant_id`,`key_id`);--> statement-breakpoint
CREATE INDEX `usage_adapter` ON `usage` (`tenant_id`,`adapter_id`);--> statement-breakpoint
CREATE INDEX `usage_base` ON `usage` (`base_digest`);--> statement-breakpoint
CREATE INDEX `usage_created` ON `usage` (`tenant_id`,`created_at`);--> statement-breakpoint
CREATE INDEX `usage_receipt` ON `usage` (`receipt`);--> statement-breakpoint
CREATE TABLE `user_roles` (
	`tenant_id` text NOT NULL,
	`user_id` text NOT NULL,
	`role_id` text NOT NULL,
	PRIMARY KEY(`tenant_id`, `user_id`, `role_id`),
	FOREIGN KEY (`tenant_id`,`user_id`) REFERENCES `users`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`role_id`) REFERENCES `roles`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `user_roles_role` ON `user_roles` (`tenant_id`,`role_id`);--> statement-breakpoint
CREATE TABLE `users` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`disabled` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action
);
