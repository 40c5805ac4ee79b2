BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE sensitivity_attempts (
	evaluation VARCHAR(64) NOT NULL, 
	assignment VARCHAR(64) NOT NULL, 
	deaths INTEGER NOT NULL, 
	checksum VARCHAR(64), 
	PRIMARY KEY (evaluation, assignment)
);
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a',0,'2e970aa724a33b568022899a2344403960302c1cef6c2a5c33de103a9e754462');
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','a1eaa7afc91ada390753aca292c69f2cb565a556f8c62d14949d70ff5dd4f9f7',0,'12e8350d652a8d2c8fa7f609235806aecc0c1f6aee65a5a45a2574ff32605a9b');
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','29d434ffeaa3cd8c7ae52d81587959df370fee0d0021467b1fb7fd2dd3a936d9',0,'343d45db9a8218ad152c19511a9f7f9d6c8acddbd428377b10ca5017139ade3b');
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','7af61d601cc9487c380ffc26a90f60d8d5e0ac4403bfda59fcee4c954c9733cd',0,'1e7c5227de15ce9644efeaabeac6552303b25571c417e6ae9636d9fe69327e86');
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','d95a992e4ed4a4a52d917f1af47cf2f69e9252a3aafbbd0ce25a362434d5f9f4',0,'db7e39461b16e90f07c2023894718498e9d2db58f673aa2a53e29aeb8320074f');
INSERT INTO "sensitivity_attempts" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','60d0552a0d61a5f636a7eaf36e6ba4dfddd7c4dae9b5e720d2f9a6cff7aef3c4',0,'39af5c15758acb0a316846abdece170991fc27c1197d3a1170d3206e101399ba');
INSERT INTO "sensitivity_attempts" VALUES('90e1e0ab8c42dacecb2da3b98975f9c68bfcd6eb50fef5c06c2934d58f3429f5','a1eaa7afc91ada390753aca292c69f2cb565a556f8c62d14949d70ff5dd4f9f7',0,'e25a87dd807d7a2e18350dc5bd237f189c55b2ca99076297a84396f2f5cc79fe');
INSERT INTO "sensitivity_attempts" VALUES('90e1e0ab8c42dacecb2da3b98975f9c68bfcd6eb50fef5c06c2934d58f3429f5','29d434ffeaa3cd8c7ae52d81587959df370fee0d0021467b1fb7fd2dd3a936d9',0,'9c30f6676f615e2069ea5731207c9c19b755af46f08e387e066c6b741109f1ab');
INSERT INTO "sensitivity_attempts" VALUES('e','a',1,'85489a10d290ceda16fb37f710e271d67d479e90e4da9299df2d89037a034e0e');
CREATE TABLE sensitivity_layers (
	calibration VARCHAR(64) NOT NULL, 
	assignment VARCHAR(64) NOT NULL, 
	error FLOAT NOT NULL, 
	checksum VARCHAR(64), 
	PRIMARY KEY (calibration, assignment)
);
INSERT INTO "sensitivity_layers" VALUES('calibration','x[0]',0.01,'a72b13d203eb3b7cda8939414eadcc08a413607549a85972fe7facb7b8940c6d');
INSERT INTO "sensitivity_layers" VALUES('calibration','x[1]',0.02,'11076c94e38a77dbdcb2733926cd12c758b883854110dbe78d8ba852d41386c2');
INSERT INTO "sensitivity_layers" VALUES('calibration','x[2]',0.03,'fa23a44497e3db4dff2c040667df30e9268d50c857d86afc62f6e82e646011dd');
INSERT INTO "sensitivity_layers" VALUES('calibration','x[3]',0.04,'6b1566bd75e84cdc58dea65f5aa2c4d0b70ef880332f6d13815f534e7053eb10');
CREATE TABLE sensitivity_meta (
	"key" VARCHAR(64) NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "sensitivity_meta" VALUES('schema','2');
INSERT INTO "sensitivity_meta" VALUES('worker:node1:21039','{"host":"node1","process":21039,"device":"cpu","work":"search","study":"","stage":"ended","what":"","done":0,"total":null,"budget":3,"began":"2026-11-29T09:20:16Z","stage_began":"2026-11-29T09:20:16Z","seen":"2026-11-29T09:20:16Z","ends":null,"how":"finished","command":""}');
CREATE TABLE sensitivity_scores (
	evaluation VARCHAR(64) NOT NULL, 
	assignment VARCHAR(64) NOT NULL, 
	net VARCHAR(32) NOT NULL, 
	mean FLOAT NOT NULL, 
	score VARCHAR NOT NULL, 
	seconds FLOAT NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	checksum VARCHAR(64), 
	PRIMARY KEY (evaluation, assignment)
);
INSERT INTO "sensitivity_scores" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a','tiny',0.0,'{"net": "tiny", "mean": 0.0, "per_prompt": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "noise_floor": null}',5.24667999798111850395e-04,'2026-11-29T09:20:15+00:00','2e540aedbf3398e08d882c9d1180f0ba38ada2a32d125e0a96a0cf05886f77b8');
INSERT INTO "sensitivity_scores" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','a1eaa7afc91ada390753aca292c69f2cb565a556f8c62d14949d70ff5dd4f9f7','tiny',5.78547288125070488518e-02,'{"net": "tiny", "mean": 0.05785472881250705, "per_prompt": [0.06961640602722764, 0.05148888270929456, 0.059013005160726606, 0.053369558730162685, 0.05048672570101917, 0.0631537945466116], "noise_floor": null}',3.85277999839672702364e-04,'2026-11-29T09:20:15+00:00','b4f1b9ee47be80fa0ab6fad2b1c98f33499b97c2ab9e634c94bfbff658023aa4');
INSERT INTO "sensitivity_scores" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','29d434ffeaa3cd8c7ae52d81587959df370fee0d0021467b1fb7fd2dd3a936d9','tiny',4.460666228846336262e-02,'{"net": "tiny", "mean": 0.04460666228846336, "per_prompt": [0.05420633126609027, 0.03688676820322871, 0.04589196560252458, 0.03977875023242086, 0.038314382765442134, 0.05256177566107363], "noise_floor": null}',3.8615900007243908476e-04,'2026-11-29T09:20:15+00:00','663c42485da6b9d306bb20e1d2d206440b1cb5e1768a33c3788108e26d31f72c');
INSERT INTO "sensitivity_scores" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','7af61d601cc9487c380ffc26a90f60d8d5e0ac4403bfda59fcee4c954c9733cd','tiny',3.36667902135911120686e-02,'{"net": "tiny", "mean": 0.03366679021359111, "per_prompt": [0.039144942577928304, 0.03261516279354692, 0.03167858219984919, 0.030211465676315132, 0.032705398896709086, 0.03564518913719803], "noise_floor": null}',7.54041999925902928225e-04,'2026-11-29T09:20:16+00:00','a5e5ffb931b3d2b22b53e05d93ccd2a867c54d92c008a61e3d88cba2f89755be');
INSERT INTO "sensitivity_scores" VALUES('b49f52adccad3d61536ed23f4446f7e0f66b79070f85caa4796a834a3ab1ada1','60d0552a0d61a5f636a7eaf36e6ba4dfddd7c4dae9b5e720d2f9a6cff7aef3c4','tiny',2.41879385989159367831e-02,'{"net": "tiny", "mean": 0.024187938598915937, "per_prompt": [0.030471463449299335, 0.01887371991574764, 0.02733442296087742, 0.023158093053847553, 0.017781326804310084, 0.027508605409413578], "noise_floor": null}',6.43615999933899729512e-04,'2026-11-29T09:20:16+00:00','9e4ae76bf72f768e2ffbb8933068ebf71e1b81eac9f8c0af5e3e6d122b12133a');
INSERT INTO "sensitivity_scores" VALUES('90e1e0ab8c42dacecb2da3b98975f9c68bfcd6eb50fef5c06c2934d58f3429f5','a1eaa7afc91ada390753aca292c69f2cb565a556f8c62d14949d70ff5dd4f9f7','tiny',6.02454455879827335817e-02,'{"net": "tiny", "mean": 0.060245445587982734, "per_prompt": [0.06461141248140484, 0.06080346542783081, 0.0637658076370135, 0.05293111623637378, 0.06019902394432575, 0.05916184780094773], "noise_floor": null}',3.48553999856449081562e-04,'2026-11-29T09:20:16+00:00','0a1ea5d1835dbd3a0ac5b954c7dd97f50a8a587846a4feaef9f3106684a3501a');
INSERT INTO "sensitivity_scores" VALUES('90e1e0ab8c42dacecb2da3b98975f9c68bfcd6eb50fef5c06c2934d58f3429f5','29d434ffeaa3cd8c7ae52d81587959df370fee0d0021467b1fb7fd2dd3a936d9','tiny',4.70536067203308205897e-02,'{"net": "tiny", "mean": 0.04705360672033082, "per_prompt": [0.050419378622435035, 0.04485350120812655, 0.04802980345953256, 0.04445284980162978, 0.045051697799004614, 0.04951440943125635], "noise_floor": null}',3.43405999956303276121e-04,'2026-11-29T09:20:16+00:00','61df7163dea91c3e13a6dd7caa63340b3bf210d921e5d30662ade3785d7d8bfe');
CREATE TABLE sensitivity_seals (
	study_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	checksums VARCHAR NOT NULL, 
	PRIMARY KEY (study_id, trial_id)
);
INSERT INTO "sensitivity_seals" VALUES(1,0,'{"studies": "2b7ccceb190e176774801dd985933edc", "study_directions": "914bc92a0b9ad57100abe190cee182ef", "study_user_attributes": "36f429d45538674d6119dbbe3affba90", "study_system_attributes": "5e609f7f260e59a388c621a2a1732626"}');
INSERT INTO "sensitivity_seals" VALUES(1,1,'{"trials": "5e4c136f5a1bd00de5a4bb6d8bd26f64", "trial_params": "cab9ce678c70011198ca201ef246b6d7", "trial_values": "2a30be272cbee91b00707c92e6c28711", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "de3caa1b4588bf44610d34c98239836a", "trial_system_attributes": "b6334c62a5771d83935c8374b53ba9b0"}');
INSERT INTO "sensitivity_seals" VALUES(1,2,'{"trials": "c4f10622a43b2a3df34d505fe1a1ef1a", "trial_params": "a9da3b78f26a970edf840bd06b4cc4aa", "trial_values": "cb3b46b6a939df5c5c902c6ce27bcb2a", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "909de7b30d70dbed0e6f94fc2c80c5a0", "trial_system_attributes": "d7342805ce82fdd3388de0ab1a366a3f"}');
INSERT INTO "sensitivity_seals" VALUES(1,3,'{"trials": "4a5af91b8dda6cde2527334a863064b2", "trial_params": "4a342d5d4e9961a0e67c659279bb5f88", "trial_values": "d3c112c76772df465da16e1c68b48744", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "c9214d3338cd77030b6dfcd3433a303e", "trial_system_attributes": "05fae12ed9be2d73bf01645defc72b89"}');
INSERT INTO "sensitivity_seals" VALUES(1,4,'{"trials": "8094953edfa460221802a8c3661e10b8", "trial_params": "36373551231c58f70dba6d96e41ed7c9", "trial_values": "7165b18b21cc1d8dbd84888a8ad4d623", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "bfaa7d732fb0081c1002fc61288e3797", "trial_system_attributes": "4f53cda18c2baa0c0354bb5f9a3ecbe5"}');
INSERT INTO "sensitivity_seals" VALUES(1,5,'{"trials": "c5a88144b473ed3e5de5dbe56f4e697c", "trial_params": "6ca8acb82cec436ee6a6cdc2890c5fdb", "trial_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "ef9b647264e89b51755add25a1289f5a", "trial_system_attributes": "4f53cda18c2baa0c0354bb5f9a3ecbe5"}');
INSERT INTO "sensitivity_seals" VALUES(1,6,'{"trials": "dc5c95c08d0941299ad4ac212d8d7845", "trial_params": "7558e1cb4055a1d0c5681f3127f853bc", "trial_values": "fad176db5cddb67ed1912db5a66321e7", "trial_intermediate_values": "4f53cda18c2baa0c0354bb5f9a3ecbe5", "trial_user_attributes": "9c59c0080a01b1f418dda3ad7c0031ec", "trial_system_attributes": "4f53cda18c2baa0c0354bb5f9a3ecbe5"}');
CREATE TABLE sensitivity_shape_times (
	machine VARCHAR(64) NOT NULL, 
	compile_mode VARCHAR(32) NOT NULL, 
	shape VARCHAR(128) NOT NULL, 
	described VARCHAR NOT NULL, 
	"row" VARCHAR NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	checksum VARCHAR(64), 
	PRIMARY KEY (machine, compile_mode, shape)
);
INSERT INTO "sensitivity_shape_times" VALUES('46ce55b352f3132ce4bb6666b52daae3ca36e894d7a32d64958e46420126e652','default','64x64x64','{"gpu": "b200"}','{"us": [1.5, 1.25]}','2026-11-29T09:20:16+00:00','310b4c2e134851b71762e90f708ae3ff6d1615ebc2d783381c08a20cf0fad64a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'fake-nvfp4-b200-3ae1c33f');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MINIMIZE',1,0);
INSERT INTO "study_directions" VALUES(2,'MINIMIZE',1,1);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["latency_s", "typical_lpips"]');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'sensitivity','1');
INSERT INTO "study_user_attributes" VALUES(2,1,'settings','{"model": "fake", "formats": ["nvfp4"], "target": "b200", "budget": 3, "seed": 0, "sampler": "random", "granularity": "group", "calibrated": true, "arithmetic": "eager", "emulate": null, "latency": "predicted", "runtime": "torchao-graphs", "objective": null, "consumers": []}');
INSERT INTO "study_user_attributes" VALUES(3,1,'errors','null');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'x[0]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(2,1,'x[1]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(3,1,'x[2]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(4,1,'x[3]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(5,2,'x[0]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(6,2,'x[1]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(7,2,'x[2]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(8,2,'x[3]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(9,3,'x[0]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(10,3,'x[1]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(11,3,'x[2]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(12,3,'x[3]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(13,4,'x[0]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(14,4,'x[1]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(15,4,'x[2]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(16,4,'x[3]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(17,5,'x[0]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(18,5,'x[1]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(19,5,'x[2]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(20,5,'x[3]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(21,6,'x[0]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(22,6,'x[1]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(23,6,'x[2]',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(24,6,'x[3]',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'fixed_params','{"x[0]": 0, "x[1]": 0, "x[2]": 0, "x[3]": 0}');
INSERT INTO "trial_system_attributes" VALUES(2,2,'fixed_params','{"x[0]": 1, "x[1]": 1, "x[2]": 1, "x[3]": 1}');
INSERT INTO "trial_system_attributes" VALUES(3,3,'fixed_params','{"x[0]": 1, "x[1]": 0, "x[2]": 1, "x[3]": 1}');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'choice','"[0, 0, 0, 0]"');
INSERT INTO "trial_user_attributes" VALUES(2,1,'index','0');
INSERT INTO "trial_user_attributes" VALUES(3,1,'label','"none"');
INSERT INTO "trial_user_attributes" VALUES(4,1,'seconds','0.059984748999795556');
INSERT INTO "trial_user_attributes" VALUES(5,1,'score','"{\"net\": \"tiny\", \"mean\": 0.0, \"per_prompt\": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(6,2,'choice','"[1, 1, 1, 1]"');
INSERT INTO "trial_user_attributes" VALUES(7,2,'index','1');
INSERT INTO "trial_user_attributes" VALUES(8,2,'label','"all nvfp4"');
INSERT INTO "trial_user_attributes" VALUES(9,2,'seconds','0.05892230300014489');
INSERT INTO "trial_user_attributes" VALUES(10,2,'score','"{\"net\": \"tiny\", \"mean\": 0.05785472881250705, \"per_prompt\": [0.06961640602722764, 0.05148888270929456, 0.059013005160726606, 0.053369558730162685, 0.05048672570101917, 0.0631537945466116], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(11,3,'choice','"[1, 0, 1, 1]"');
INSERT INTO "trial_user_attributes" VALUES(12,3,'index','2');
INSERT INTO "trial_user_attributes" VALUES(13,3,'label','"rule of thumb"');
INSERT INTO "trial_user_attributes" VALUES(14,3,'seconds','0.059983798000075694');
INSERT INTO "trial_user_attributes" VALUES(15,3,'score','"{\"net\": \"tiny\", \"mean\": 0.04460666228846336, \"per_prompt\": [0.05420633126609027, 0.03688676820322871, 0.04589196560252458, 0.03977875023242086, 0.038314382765442134, 0.05256177566107363], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(16,4,'choice','"[1, 1, 1, 0]"');
INSERT INTO "trial_user_attributes" VALUES(17,4,'index','3');
INSERT INTO "trial_user_attributes" VALUES(18,4,'label','""');
INSERT INTO "trial_user_attributes" VALUES(19,4,'seconds','0.06397068399996897');
INSERT INTO "trial_user_attributes" VALUES(20,4,'score','"{\"net\": \"tiny\", \"mean\": 0.03366679021359111, \"per_prompt\": [0.039144942577928304, 0.03261516279354692, 0.03167858219984919, 0.030211465676315132, 0.032705398896709086, 0.03564518913719803], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(21,5,'choice','"[0, 1, 0, 1]"');
INSERT INTO "trial_user_attributes" VALUES(22,5,'index','4');
INSERT INTO "trial_user_attributes" VALUES(23,5,'label','""');
INSERT INTO "trial_user_attributes" VALUES(24,5,'seconds','0.03595336499984114');
INSERT INTO "trial_user_attributes" VALUES(25,5,'stopped','{"prompts": 4, "share": 0.6666666666666666, "rival": 3, "p_value": 0.005148347755378436, "estimate": 0.039036111255474584}');
INSERT INTO "trial_user_attributes" VALUES(26,6,'choice','"[0, 0, 0, 1]"');
INSERT INTO "trial_user_attributes" VALUES(27,6,'index','5');
INSERT INTO "trial_user_attributes" VALUES(28,6,'label','""');
INSERT INTO "trial_user_attributes" VALUES(29,6,'seconds','0.0587503149999975');
INSERT INTO "trial_user_attributes" VALUES(30,6,'score','"{\"net\": \"tiny\", \"mean\": 0.024187938598915937, \"per_prompt\": [0.030471463449299335, 0.01887371991574764, 0.02733442296087742, 0.023158093053847553, 0.017781326804310084, 0.027508605409413578], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(31,7,'choice','"[0, 0, 0, 1]"');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,3.0,'FINITE');
INSERT INTO "trial_values" VALUES(2,1,1,0.0,'FINITE');
INSERT INTO "trial_values" VALUES(3,2,0,2.42,'FINITE');
INSERT INTO "trial_values" VALUES(4,2,1,5.74610945364603109553e-02,'FINITE');
INSERT INTO "trial_values" VALUES(5,3,0,2.55,'FINITE');
INSERT INTO "trial_values" VALUES(6,3,1,4.40950823339701161729e-02,'FINITE');
INSERT INTO "trial_values" VALUES(7,4,0,2.61,'FINITE');
INSERT INTO "trial_values" VALUES(8,4,1,3.35435403626674760735e-02,'FINITE');
INSERT INTO "trial_values" VALUES(9,6,0,2.81,'FINITE');
INSERT INTO "trial_values" VALUES(10,6,1,2.37191844870258926325e-02,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-29 09:20:15.107954','2026-11-29 09:20:15.365886');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-29 09:20:15.407663','2026-11-29 09:20:15.661236');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-29 09:20:15.703683','2026-11-29 09:20:15.937231');
INSERT INTO "trials" VALUES(4,3,1,'COMPLETE','2026-11-29 09:20:15.949584','2026-11-29 09:20:16.213164');
INSERT INTO "trials" VALUES(5,4,1,'PRUNED','2026-11-29 09:20:16.234450','2026-11-29 09:20:16.463895');
INSERT INTO "trials" VALUES(6,5,1,'COMPLETE','2026-11-29 09:20:16.485809','2026-11-29 09:20:16.732984');
INSERT INTO "trials" VALUES(7,6,1,'RUNNING','2026-11-29 09:20:17.066683',NULL);
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
