CREATE TABLE `limit_leases` (
	`id` text PRIMARY KEY NOT NULL,
	`tenant_id` text NOT NULL,
	`limit_id` text NOT NULL,
	`subject` text NOT NULL,
	`start` integer NOT NULL,
	`amount` integer NOT NULL,
	`added` integer NOT NULL,
	`reports` integer NOT NULL,
	`until` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `limit_leases_until` ON `limit_leases` (`until`);--> statement-breakpoint
DROP INDEX `usage_key`;--> statement-breakpoint
DROP INDEX `usage_user`;--> statement-breakpoint
DROP INDEX `usage_adapter`;--> statement-breakpoint
DROP INDEX `usage_base`;--> statement-breakpoint
DROP INDEX `usage_held`;--> statement-breakpoint
-- What requests held one by one lapses: they run still, and are counted when they end; from now on gateways hold.
UPDATE `limit_windows` SET `held` = 0;--> statement-breakpoint
UPDATE `usage` SET `held_until` = NULL WHERE `held_until` IS NOT NULL AND `status` = 'open';
