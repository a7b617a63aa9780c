CREATE TABLE `facts` (
	`digest` text PRIMARY KEY NOT NULL,
	`text` text NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
ALTER TABLE `usage` ADD `assigned_arm_id` text;--> statement-breakpoint
ALTER TABLE `usage` ADD `facts_digest` text;--> statement-breakpoint
CREATE TRIGGER `facts_no_update` BEFORE UPDATE ON `facts` BEGIN SELECT RAISE(ABORT, 'facts are write-once'); END;
--> statement-breakpoint
CREATE TRIGGER `facts_no_delete` BEFORE DELETE ON `facts` BEGIN SELECT RAISE(ABORT, 'facts are write-once'); END;
