CREATE TABLE `adapter_tags` (
	`tenant_id` text NOT NULL,
	`adapter_id` text NOT NULL,
	`tag` text NOT NULL,
	PRIMARY KEY(`tenant_id`, `adapter_id`, `tag`),
	FOREIGN KEY (`tenant_id`,`adapter_id`) REFERENCES `adapters`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `adapter_tags_tag` ON `adapter_tags` (`tenant_id`,`tag`);--> statement-breakpoint
CREATE TABLE `groups` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`disabled` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE TABLE `issuers` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`issuer` text NOT NULL,
	`audience` text NOT NULL,
	`jwks_url` text NOT NULL,
	`algorithms` text NOT NULL,
	`groups_claim` text,
	`disabled` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `issuers_issuer_unique` ON `issuers` (`issuer`);--> statement-breakpoint
CREATE TABLE `policy_epochs` (
	`tenant_id` text PRIMARY KEY NOT NULL,
	`epoch` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `policy_epochs_epoch` ON `policy_epochs` (`epoch`);--> statement-breakpoint
CREATE TABLE `user_groups` (
	`tenant_id` text NOT NULL,
	`user_id` text NOT NULL,
	`group_id` text NOT NULL,
	PRIMARY KEY(`tenant_id`, `user_id`, `group_id`),
	FOREIGN KEY (`tenant_id`,`user_id`) REFERENCES `users`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`group_id`) REFERENCES `groups`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `user_groups_group` ON `user_groups` (`tenant_id`,`group_id`);--> statement-breakpoint
CREATE TABLE `key_uses` (
	`key_id` text PRIMARY KEY NOT NULL,
	`last_used_at` integer NOT NULL,
	FOREIGN KEY (`key_id`) REFERENCES `keys`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE TABLE `__new_grants` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`effect` text NOT NULL,
	`actions` text NOT NULL,
	`principal_kind` text NOT NULL,
	`key_id` text,
	`user_id` text,
	`group_id` text,
	`role_id` text,
	`adapter_id` text,
	`tag` text,
	`base_digest` text,
	`starts_at` integer,
	`ends_at` integer,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`base_digest`) REFERENCES `bases`(`digest`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`key_id`) REFERENCES `keys`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`user_id`) REFERENCES `users`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`group_id`) REFERENCES `groups`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`role_id`) REFERENCES `roles`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`adapter_id`) REFERENCES `adapters`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	CONSTRAINT "grants_principal" CHECK(("__new_grants"."key_id" IS NOT NULL) = ("__new_grants"."principal_kind" = 'key') AND ("__new_grants"."user_id" IS NOT NULL) = ("__new_grants"."principal_kind" = 'user') AND ("__new_grants"."group_id" IS NOT NULL) = ("__new_grants"."principal_kind" = 'group') AND ("__new_grants"."role_id" IS NOT NULL) = ("__new_grants"."principal_kind" = 'role')),
	CONSTRAINT "grants_resource" CHECK(("__new_grants"."adapter_id" IS NOT NULL) + ("__new_grants"."tag" IS NOT NULL) + ("__new_grants"."base_digest" IS NOT NULL) = 1),
	CONSTRAINT "grants_actions" CHECK(json_array_length("__new_grants"."actions") > 0)
);
--> statement-breakpoint
-- A grant of before was about use, and a denial about everything.
INSERT INTO `__new_grants`("tenant_id", "id", "effect", "actions", "principal_kind", "key_id", "user_id", "role_id", "adapter_id", "base_digest", "starts_at", "ends_at", "created_at") SELECT "tenant_id", "id", "effect", CASE "effect" WHEN 'deny' THEN '["infer","list","train","merge","promote","admin"]' ELSE '["infer","list"]' END, "principal_kind", "key_id", "user_id", "role_id", "adapter_id", "base_digest", "starts_at", "ends_at", "created_at" FROM `grants`;--> statement-breakpoint
DROP TABLE `grants`;--> statement-breakpoint
ALTER TABLE `__new_grants` RENAME TO `grants`;--> statement-breakpoint
CREATE INDEX `grants_key` ON `grants` (`tenant_id`,`key_id`);--> statement-breakpoint
CREATE INDEX `grants_user` ON `grants` (`tenant_id`,`user_id`);--> statement-breakpoint
CREATE INDEX `grants_group` ON `grants` (`tenant_id`,`group_id`);--> statement-breakpoint
CREATE INDEX `grants_role` ON `grants` (`tenant_id`,`role_id`);--> statement-breakpoint
CREATE INDEX `grants_adapter` ON `grants` (`tenant_id`,`adapter_id`);--> statement-breakpoint
CREATE INDEX `grants_base` ON `grants` (`base_digest`);--> statement-breakpoint
CREATE TABLE `__new_usage` (
	`request_id` text PRIMARY KEY NOT NULL,
	`tenant_id` text NOT NULL,
	`key_id` text,
	`user_id` text,
	`model` text NOT NULL,
	`base_digest` text NOT NULL,
	`adapter_id` text,
	`adapter_digest` text,
	`grant_id` text NOT NULL,
	`experiment_id` text,
	`bucket_version` integer,
	`arm_id` text,
	`mix` text,
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
INSERT INTO `__new_usage`("request_id", "tenant_id", "key_id", "user_id", "model", "base_digest", "adapter_id", "adapter_digest", "grant_id", "experiment_id", "bucket_version", "arm_id", "mix", "receipt", "status", "prompt_tokens", "completion_tokens", "ttft_ms", "created_at", "settled_at") SELECT "request_id", "tenant_id", "key_id", (SELECT `user_id` FROM `keys` WHERE `keys`.`id` = `usage`.`key_id`), "model", "base_digest", "adapter_id", "adapter_digest", "grant_id", "experiment_id", "bucket_version", "arm_id", "mix", "receipt", "status", "prompt_tokens", "completion_tokens", "ttft_ms", "created_at", "settled_at" FROM `usage`;--> statement-breakpoint
DROP TABLE `usage`;--> statement-breakpoint
ALTER TABLE `__new_usage` RENAME TO `usage`;--> statement-breakpoint
CREATE INDEX `usage_key` ON `usage` (`tenant_id`,`key_id`);--> statement-breakpoint
CREATE INDEX `usage_user` ON `usage` (`tenant_id`,`user_id`);--> statement-breakpoint
CREATE INDEX `usage_adapter` ON `usage` (`tenant_id`,`adapter_id`);--> statement-breakpoint
CREATE INDEX `usage_base` ON `usage` (`base_digest`);--> statement-breakpoint
CREATE INDEX `usage_created` ON `usage` (`tenant_id`,`created_at`);--> statement-breakpoint
CREATE INDEX `usage_receipt` ON `usage` (`receipt`);--> statement-breakpoint
ALTER TABLE `keys` ADD `previous_mac` text;--> statement-breakpoint
ALTER TABLE `keys` ADD `previous_pepper_version` text;--> statement-breakpoint
ALTER TABLE `keys` ADD `previous_until` integer;--> statement-breakpoint
ALTER TABLE `keys` ADD `scopes` text;--> statement-breakpoint
-- They went with the table that they were on.
CREATE TRIGGER `usage_settles_once` BEFORE UPDATE ON `usage` WHEN OLD.`status` <> 'open' BEGIN SELECT RAISE(ABORT, 'usage is settled once'); END;
--> statement-breakpoint
CREATE TRIGGER `usage_no_delete` BEFORE DELETE ON `usage` BEGIN SELECT RAISE(ABORT, 'usage is append-only'); END;
