CREATE TABLE `backend_adapters` (
	`backend_id` text NOT NULL,
	`digest` text NOT NULL,
	`upstream` text NOT NULL,
	`source` text,
	`status` text NOT NULL,
	`reason` text,
	`probed_at` integer,
	`revision` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`backend_id`, `digest`),
	FOREIGN KEY (`backend_id`) REFERENCES `backends`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `backend_adapters_digest` ON `backend_adapters` (`digest`);--> statement-breakpoint
CREATE UNIQUE INDEX `backend_adapters_upstream` ON `backend_adapters` (`backend_id`,`upstream`);--> statement-breakpoint
DROP INDEX `backends_url_unique`;--> statement-breakpoint
ALTER TABLE `backends` ADD `driver` text DEFAULT 'sidepath' NOT NULL;--> statement-breakpoint
ALTER TABLE `backends` ADD `prefix` text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE `backends` ADD `secret` text;--> statement-breakpoint
ALTER TABLE `backends` ADD `base_model` text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE `backends` ADD `may_load` integer DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE `backends` ADD `draining` integer DEFAULT false NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX `backends_address` ON `backends` (`url`,`prefix`,`base_model`);
--> statement-breakpoint
CREATE TRIGGER `backend_adapters_insert_epoch` AFTER INSERT ON `backend_adapters` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
--> statement-breakpoint
CREATE TRIGGER `backend_adapters_update_epoch` AFTER UPDATE ON `backend_adapters` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
--> statement-breakpoint
CREATE TRIGGER `backend_adapters_delete_epoch` AFTER DELETE ON `backend_adapters` BEGIN
  INSERT INTO `policy_epochs` SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = '');
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = '';
END;
