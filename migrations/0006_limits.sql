CREATE TABLE `limits` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`scope` text NOT NULL,
	`key_id` text,
	`user_id` text,
	`adapter_id` text,
	`metric` text NOT NULL,
	`window` text NOT NULL,
	`amount` integer NOT NULL,
	`disabled` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`key_id`) REFERENCES `keys`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`adapter_id`) REFERENCES `adapters`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	CONSTRAINT "limits_scope" CHECK(("limits"."key_id" IS NOT NULL) = ("limits"."scope" = 'key') AND ("limits"."user_id" IS NOT NULL) = ("limits"."scope" = 'user') AND ("limits"."adapter_id" IS NOT NULL) = ("limits"."scope" = 'adapter')),
	CONSTRAINT "limits_amount" CHECK("limits"."amount" >= 0)
);
--> statement-breakpoint
CREATE INDEX `limits_key` ON `limits` (`tenant_id`,`key_id`);--> statement-breakpoint
CREATE INDEX `limits_adapter` ON `limits` (`tenant_id`,`adapter_id`);--> statement-breakpoint
CREATE TABLE `prices` (
	`tenant_id` text NOT NULL,
	`id` text NOT NULL,
	`adapter_id` text,
	`base_digest` text,
	`prompt_price` integer NOT NULL,
	`completion_price` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `id`),
	FOREIGN KEY (`tenant_id`) REFERENCES `tenants`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`base_digest`) REFERENCES `bases`(`digest`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`tenant_id`,`adapter_id`) REFERENCES `adapters`(`tenant_id`,`id`) ON UPDATE no action ON DELETE no action,
	CONSTRAINT "prices_resource" CHECK(("prices"."adapter_id" IS NULL) <> ("prices"."base_digest" IS NULL))
);
--> statement-breakpoint
CREATE INDEX `prices_of_base` ON `prices` (`base_digest`);--> statement-breakpoint
CREATE UNIQUE INDEX `prices_adapter` ON `prices` (`tenant_id`,`adapter_id`);--> statement-breakpoint
CREATE UNIQUE INDEX `prices_base` ON `prices` (`tenant_id`,`base_digest`);--> statement-breakpoint
CREATE TABLE `limit_windows` (
	`tenant_id` text NOT NULL,
	`limit_id` text NOT NULL,
	`subject` text NOT NULL,
	`start` integer NOT NULL,
	`end` integer NOT NULL,
	`used` integer NOT NULL,
	`held` integer NOT NULL,
	PRIMARY KEY(`tenant_id`, `limit_id`, `subject`, `start`)
);
--> statement-breakpoint
ALTER TABLE `usage` ADD `prompt_price` integer;--> statement-breakpoint
ALTER TABLE `usage` ADD `completion_price` integer;--> statement-breakpoint
ALTER TABLE `usage` ADD `charge` text;--> statement-breakpoint
ALTER TABLE `usage` ADD `cost` integer;--> statement-breakpoint
ALTER TABLE `usage` ADD `holds` text;--> statement-breakpoint
ALTER TABLE `usage` ADD `held_until` integer;--> statement-breakpoint
CREATE INDEX `usage_held` ON `usage` (`tenant_id`,`held_until`) WHERE held_until IS NOT NULL;
--> statement-breakpoint
CREATE TRIGGER `limits_insert_epoch` AFTER INSERT ON `limits` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `limits_update_epoch` AFTER UPDATE ON `limits` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `limits_delete_epoch` AFTER DELETE ON `limits` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `prices_insert_epoch` AFTER INSERT ON `prices` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `prices_update_epoch` AFTER UPDATE ON `prices` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `prices_delete_epoch` AFTER DELETE ON `prices` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
-- The 60 windows before a new one are kept, for whoever wants to look at them.
CREATE TRIGGER `limit_windows_tidy` AFTER INSERT ON `limit_windows` BEGIN
  DELETE FROM `limit_windows` WHERE `tenant_id` = NEW.`tenant_id` AND `limit_id` = NEW.`limit_id` AND `subject` = NEW.`subject` AND `start` < NEW.`start` - 60 * (NEW.`end` - NEW.`start`);
END;
