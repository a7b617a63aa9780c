ALTER TABLE `audit` ADD `previous_hash` text;--> statement-breakpoint
ALTER TABLE `audit` ADD `hash` text;--> statement-breakpoint
CREATE UNIQUE INDEX `audit_previous_hash_unique` ON `audit` (`previous_hash`);--> statement-breakpoint
-- Whoever appends continues the last row, or the append fails as a whole. The hashes themselves are checked by readers.
CREATE TRIGGER `audit_chained` BEFORE INSERT ON `audit`
WHEN NEW.`hash` IS NULL OR NEW.`previous_hash` IS NULL
  OR EXISTS (SELECT 1 FROM (SELECT `id`, `hash` FROM `audit` ORDER BY `id` DESC LIMIT 1) AS `last` WHERE NEW.`id` <> `last`.`id` + 1 OR NEW.`previous_hash` <> `last`.`hash`)
BEGIN SELECT RAISE(ABORT, 'audit is a chain'); END;
